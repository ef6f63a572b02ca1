# A database credential, whose lease is to be renewed, and a secret whose changes restart the task. The pid file
# tells the process; what it prints tells the colour.
variable "name" {
  type = string
}
variable "driver" {
  type = string
}
variable "vault_block" {
  type        = bool
  description = "the token is Nomad's, instead of one for the task's identity"
}
job "recovery" {
  id   = var.name
  name = var.name
  group "g" {
    task "web" {
      driver = var.driver
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
        role    = var.vault_block ? null : var.name
        image   = var.driver == "docker" ? "${meta.image}" : null
        command = "testapp"
        args    = ["-pidfile", var.driver == "docker" ? "/local/pid" : "pid", "env", "COLOUR"]
        secret "db" {
          path = "database/creds/${var.name}"
          env  = { DB_USER = "username", DB_PASSWORD = "password" }
        }
        secret "app" {
          path  = "secret/${var.name}"
          env   = { COLOUR = "colour" }
          splay = "0s"
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
