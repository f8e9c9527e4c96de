# Vault Agent keeps a Snowplow JWT in files for an application. It reads a new one after 85 to 95 % of the lease, which
# is long before the JWT expires.
#
#   vault agent -config=/etc/snowplow-agent/agent.hcl

vault {
  address = "https://vault.example.com:8200"

  # The CA of Vault's own certificate. Remove it if the system trusts that CA.
  ca_cert = "/etc/snowplow-agent/vault-ca.pem"
}

auto_auth {
  method "approle" {
    config = {
      role_id_file_path   = "/etc/snowplow-agent/role-id"
      secret_id_file_path = "/etc/snowplow-agent/secret-id"

      # Kept, so that the Agent can log in again after a restart.
      remove_secret_id_file_after_reading = false
    }
  }
}

template_config {
  # When Vault refuses the token or stays out of reach, the Agent exits and systemd starts it again. The files stay as
  # they are meanwhile: the JWT in them is still good for hours.
  exit_on_retry_failure = true
}

# The JWT alone.
template {
  source      = "/etc/snowplow-agent/token.ctmpl"
  destination = "/run/snowplow/token"
  perms       = "0640"

  # A field that the answer lacks is an error. Otherwise a misspelt one is written to the file as "<no value>".
  error_on_missing_key = true
}

# The same as an environment file. A program that reads it only at its start must be restarted when it changes, before
# the JWT expires; add for example
#   exec { command = ["systemctl", "try-restart", "app.service"] }
template {
  source               = "/etc/snowplow-agent/snowplow.env.ctmpl"
  destination          = "/run/snowplow/snowplow.env"
  perms                = "0640"
  error_on_missing_key = true
}
