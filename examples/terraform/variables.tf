variable "plugin_version" {
  description = "Version of the plugin, as it prints it with --version."
  type        = string
}

variable "plugin_sha256" {
  description = "SHA-256 of the plugin's binary in the plugin directory of every node."
  type        = string
}

variable "organization_id" {
  description = "ID of the Snowplow organization."
  type        = string
}

variable "console_url" {
  description = "Where Console is. Without a slash at the end: the engine stores it without, and every plan would show a change."
  type        = string
  default     = "https://console.snowplowanalytics.com"

  validation {
    condition     = !endswith(var.console_url, "/")
    error_message = "console_url must not end in a slash."
  }
}

variable "api_key_id" {
  description = "ID of the API key in config, the default for readers of snowplow/token."
  type        = string
}

variable "roles" {
  description = "A role for each team with its own API key. Durations are numbers of seconds."
  type = map(object({
    api_key_id   = string
    ttl          = number
    reuse_period = number
  }))
  default = {}
}

# The keys themselves: in the environment as TF_VAR_api_key and TF_VAR_role_api_keys, never in a file. Ephemeral, so that
# Terraform refuses to put them into its state or a plan.
variable "api_key" {
  description = "The API key in config. Needed only when it is to be written."
  type        = string
  sensitive   = true
  ephemeral   = true
  default     = null
}

variable "role_api_keys" {
  description = "The API keys of the roles, by role. Needed only when they are to be written."
  type        = map(string)
  sensitive   = true
  ephemeral   = true
  default     = {}
}
