# Vault Agent keeps Prometheus' Vault token in a file, renews it, and logs in again once it cannot be renewed any longer.
# Run it as Prometheus' user: the file is for its owner only.
#
#   vault agent -config=agent.hcl

vault {
  address = "https://vault.example.com:8200"
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
