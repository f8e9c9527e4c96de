# Part of the server's configuration file: without it, Vault has no metrics for Prometheus. Without disable_hostname,
# the names of its gauges contain the server's.
telemetry {
  prometheus_retention_time = "24h"
  disable_hostname          = true
}
