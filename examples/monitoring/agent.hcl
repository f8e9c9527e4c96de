# Vault Agent keeps Prometheus' Vault token in a file, renews it, and logs in again once it cannot be renewed any longer.
# Run it as Prometheus' user: the file is for its owner only.
#
#   vault agent -config=/etc/prometheus/vault/agent.hcl

vault {
  address = "https://vault.example.com:8200"

  # The CA of Vault's certificate. Remove this line if the system trusts it.
  ca_cert = "/etc/prometheus/vault/vault-ca.pem"
}

auto_auth {
  method "approle" {
    config = {
      role_id_file_path   = "/etc/prometheus/vault/role-id"
      secret_id_file_path = "/etc/prometheus/vault/secret-id"

      # Kept, so that Agent can log in again after a restart.
      remove_secret_id_file_after_reading = false
    }
  }

  sink "file" {
    config = {
      path = "/run/prometheus/vault-token"
      mode = 0600
    }
  }
}
