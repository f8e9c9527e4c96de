resource "vault_policy" "operator" {
  name   = "snowplow-operator"
  policy = file("${path.module}/../policies/operator.hcl")
}

resource "vault_policy" "auditor" {
  name   = "snowplow-auditor"
  policy = file("${path.module}/../policies/auditor.hcl")
}

resource "vault_policy" "team" {
  for_each = var.roles

  name   = "snowplow-${each.key}"
  policy = <<-EOT
    path "${vault_mount.snowplow.path}/token/${each.key}" {
      capabilities = ["read", "update", "delete"]
    }
  EOT
}
