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
  policy = replace(file("${path.module}/../policies/team.hcl"), "analytics", each.key)
}
