# One static secret, and an identity that lives for ttl. Without attempts, the restart block is Nomad's default.
variable "name" {
  type = string
}
variable "ttl" {
  type = string
}
variable "attempts" {
  type    = number
  default = 0
}
job "outage-start" {
  id   = var.name
  name = var.name
  group "g" {
    dynamic "restart" {
      for_each = var.attempts == 0 ? [] : [var.attempts]
      content {
        attempts = restart.value
        delay    = "1s"
        interval = "10m"
        mode     = "fail"
      }
    }
    task "app" {
      driver = "raw_exec"
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = var.ttl
        file     = true
        filepath = "private/vault.jwt"
      }
      config {
        command = "testapp"
        args    = ["sighup", "secrets/kv/colour"]
        role    = "outage-start"
        secret "kv" {
          path  = "secret/outage-start"
          files = true
        }
      }
    }
  }
}
