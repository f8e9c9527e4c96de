# The keys, written by an ephemeral resource: they are neither in the state nor in a plan.
#
# This writes whenever it is evaluated: already DURING "terraform plan", and again during apply. So it does nothing
# unless write_keys is true. Set that only for the run that brings new keys:
#
#   terraform apply -var write_keys=true
variable "write_keys" {
  description = "Write the API keys in this run, during the plan already."
  type        = bool
  default     = false
}

ephemeral "vault_generic_endpoint" "config_key" {
  # Not "var.api_key != null": a count may not depend on an ephemeral value.
  count = var.write_keys ? 1 : 0

  path = "${vault_mount.snowplow.path}/config"

  # The first plan has no mount to write to yet. This makes it wait for the apply.
  mount_id = vault_mount.snowplow.id

  # With the URL, which a key is bound to: a new URL is accepted only together with the key.
  data_json = jsonencode({
    organization_id = var.organization_id
    console_url     = var.console_url
    api_key_id      = var.api_key_id
    api_key         = var.api_key
  })
}

resource "terraform_data" "config_key" {
  depends_on = [ephemeral.vault_generic_endpoint.config_key]
}

ephemeral "vault_generic_endpoint" "role_key" {
  for_each = { for name, role in var.roles : name => role if var.write_keys }

  path = "${vault_mount.snowplow.path}/roles/${each.key}"

  # A role needs config.
  mount_id = vault_generic_endpoint.config.id

  data_json = jsonencode({
    api_key_id = each.value.api_key_id
    api_key    = var.role_api_keys[each.key]
  })
}

resource "terraform_data" "role_key" {
  depends_on = [ephemeral.vault_generic_endpoint.role_key]
}
