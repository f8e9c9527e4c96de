# The plugin's file must already be in the plugin directory of every node. Each version has its own file: replacing one
# would break the version that is still registered with its checksum.
resource "vault_plugin" "snowplow" {
  type    = "secret"
  name    = "vault-plugin-secrets-snowplow"
  version = var.plugin_version
  command = "vault-plugin-secrets-snowplow_${var.plugin_version}"
  sha256  = var.plugin_sha256

  # An upgrade registers the new version before the mount leaves the old one.
  lifecycle {
    create_before_destroy = true
  }
}

resource "vault_mount" "snowplow" {
  path           = "snowplow"
  type           = vault_plugin.snowplow.name
  plugin_version = vault_plugin.snowplow.version
  description    = "JWTs for Snowplow Console"
}

# The settings that are not secret. They include the key's ID, so that a plan shows when somebody has written another
# key, and this write is refused until the key itself (key.tf) has been written.
resource "vault_generic_endpoint" "config" {
  path = "${vault_mount.snowplow.path}/config"

  # Vault returns no keys, and more fields than these.
  ignore_absent_fields = true

  # Numbers of seconds, which is what Vault returns: "1h" or "3600" would show a change in every plan.
  data_json = jsonencode({
    organization_id = var.organization_id
    console_url     = var.console_url
    api_key_id      = var.api_key_id
    ttl             = 0
    reuse_period    = 3600
    request_timeout = 30
  })

  depends_on = [terraform_data.config_key]
}

resource "vault_generic_endpoint" "role" {
  for_each = var.roles

  path                 = "${vault_mount.snowplow.path}/roles/${each.key}"
  ignore_absent_fields = true

  data_json = jsonencode({
    api_key_id   = each.value.api_key_id
    ttl          = each.value.ttl
    reuse_period = each.value.reuse_period
  })

  depends_on = [terraform_data.role_key]
}
