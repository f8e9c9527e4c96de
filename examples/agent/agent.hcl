# Vault Agent keeps a Snowplow JWT in a file for an application. It reads a new
# one when 85 to 95 % of a lease is over, so long before the JWT ends.
#
#   vault agent -config=agent.hcl

vault {
  address = "https://vault.example.com:8200"
}

auto_auth {
  method "approle" {
    config = {
      role_id_file_path   = "/etc/vault-agent/role-id"
      secret_id_file_path = "/etc/vault-agent/secret-id"

      # Kept, so that Agent can log in again after a restart.
      remove_secret_id_file_after_reading = false
    }
  }
}

template_config {
  # What Agent does when Vault is out of reach for long or refuses the token:
  # it ends, so that whatever runs it takes notice. The file stays as it was.
  exit_on_retry_failure = true
}

template {
  source      = "/etc/vault-agent/token.ctmpl"
  destination = "/run/app/snowplow-token"
  perms       = "0600"

  # A field that the answer does not have is an error. Without this, a
  # misspelt one would be written to the file as "<no value>".
  error_on_missing_key = true
}
