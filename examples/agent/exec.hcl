# Vault Agent as the parent of an application that takes its settings from the environment and cannot read a file
# again. The Agent restarts it when the JWT changes, which is once or twice a day.
#
#   vault agent -config=/etc/snowplow-agent/exec.hcl

vault {
  address = "https://vault.example.com:8200"
  ca_cert = "/etc/snowplow-agent/vault-ca.pem"
}

auto_auth {
  method "approle" {
    config = {
      role_id_file_path                   = "/etc/snowplow-agent/role-id"
      secret_id_file_path                 = "/etc/snowplow-agent/secret-id"
      remove_secret_id_file_after_reading = false
    }
  }
}

template_config {
  exit_on_retry_failure = true
}

env_template "SNOWPLOW_CONSOLE_URL" {
  contents             = "{{ with secret \"snowplow/token/analytics\" }}{{ .Data.console_url }}{{ end }}"
  error_on_missing_key = true
}

env_template "SNOWPLOW_TOKEN" {
  contents             = "{{ with secret \"snowplow/token/analytics\" }}{{ .Data.access_token }}{{ end }}"
  error_on_missing_key = true
}

exec {
  command                   = ["/usr/local/bin/app"]
  restart_on_secret_changes = "always"
  restart_stop_signal       = "SIGTERM"
}
