# The keys, written by the vault program: replaces ../key.tf if keys must be written only during apply. Needs the vault
# program where Terraform runs. Terraform keeps the triggers, not the keys.
resource "terraform_data" "config_key" {
  # A new ID is a new key. The URL is here because a key is bound to it.
  triggers_replace = [vault_mount.snowplow.id, var.organization_id, var.console_url, var.api_key_id]

  provisioner "local-exec" {
    # On standard input: others can see a program's arguments.
    command = <<-EOT
      printf '%s' "$API_KEY" | vault write "$MOUNT/config" \
          organization_id="$ORGANIZATION_ID" console_url="$CONSOLE_URL" api_key_id="$API_KEY_ID" api_key=-
    EOT
    environment = {
      MOUNT           = vault_mount.snowplow.path
      ORGANIZATION_ID = var.organization_id
      CONSOLE_URL     = var.console_url
      API_KEY_ID      = var.api_key_id
      API_KEY         = var.api_key
    }
  }
}

resource "terraform_data" "role_key" {
  for_each = var.roles

  triggers_replace = [vault_mount.snowplow.id, var.organization_id, var.console_url, each.value.api_key_id]

  provisioner "local-exec" {
    command = "printf '%s' \"$API_KEY\" | vault write \"$MOUNT/roles/$ROLE\" api_key_id=\"$API_KEY_ID\" api_key=-"
    environment = {
      MOUNT      = vault_mount.snowplow.path
      ROLE       = each.key
      API_KEY_ID = each.value.api_key_id
      API_KEY    = var.role_api_keys[each.key]
    }
  }

  # A role needs config.
  depends_on = [terraform_data.config_key]
}
