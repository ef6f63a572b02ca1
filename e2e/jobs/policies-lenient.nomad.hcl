# A job that declares nothing, with a token of Nomad's by the name of the job, or with an identity.
variable "name" {
  type = string
}
variable "vault_block" {
  type = bool
}
job "policies-lenient" {
  id   = var.name
  name = var.name
  group "g" {
    restart {
      attempts = 0
      mode     = "fail"
    }
    task "app" {
      driver = "raw_exec"
      dynamic "identity" {
        for_each = var.vault_block ? [] : ["vault"]
        content {
          name     = identity.value
          aud      = ["vault.io"]
          ttl      = "1h"
          file     = true
          filepath = "private/vault.jwt"
        }
      }
      dynamic "vault" {
        for_each = var.vault_block ? [var.name] : []
        content {
          role = vault.value
        }
      }
      config {
        command = "/bin/sh"
        args    = ["-c", "echo start; exec sleep 1000"]
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
