# The job itself asks for its policies' secrets.
variable "name" {
  type = string
}
job "policies-bad" {
  id   = var.name
  name = var.name
  group "g" {
    restart {
      attempts = 0
      mode     = "fail"
    }
    task "web" {
      driver = "raw_exec"
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }
      config {
        command       = "/bin/sh"
        args          = ["-c", "echo start; exec sleep 1000"]
        role          = var.name
        from_policies = "env"
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
