terraform {
  # For ephemeral resources. The provider has the one for endpoints since 5.9.
  required_version = ">= 1.11"

  required_providers {
    vault = {
      source  = "hashicorp/vault"
      version = "~> 5.9"
    }
  }
}

# VAULT_ADDR and VAULT_TOKEN come from the environment.
provider "vault" {}
