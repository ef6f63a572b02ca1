# A task that logs in to MariaDB over and over. Its name is the job's.
variable "name" {
  type = string
}
variable "driver" {
  type = string
}
variable "role" {
  type = string
}
variable "vault_block" {
  type        = bool
  description = "the token is Nomad's, instead of one for the task's identity"
}
variable "credentials" {
  type = string
}
job "crash" {
  id   = var.name
  name = var.name
  group "g" {
    restart {
      attempts = 20
      interval = "10m"
      delay    = "1s"
      mode     = "delay"
    }
    dynamic "task" {
      for_each = [var.name]
      labels   = [task.value]
      content {
        driver       = var.driver
        kill_timeout = "2s"
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
          for_each = var.vault_block ? [var.role] : []
          content {
            role = vault.value
          }
        }
        env {
          DB_ADDR = "${meta.db_addr}"
        }
        config {
          image        = var.driver == "docker" ? "${meta.image}" : null
          network_mode = var.driver == "docker" ? "host" : null
          command      = "testapp"
          args         = ["-every", "400ms", "dblogin"]
          role         = var.vault_block ? null : var.role
          stop_timeout = "1s"
          secret "db" {
            path  = var.credentials
            env   = { DB_USER = "username", DB_PASSWORD = "password" }
            files = true
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
}
