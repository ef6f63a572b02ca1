# A task that logs in to MariaDB over and over, and has a Nomad Variable: its credentials are of that, too, or a lease. Its name is the job's.
variable "name" {
  type = string
}
variable "driver" {
  type = string
}
variable "role" {
  type        = string
  description = "of Vault's; empty: the credentials are in the variable"
}
variable "credentials" {
  type = string
}
job "crash-variable" {
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
        identity {
          file     = true
          filepath = "private/nomad.jwt"
        }
        dynamic "identity" {
          for_each = var.role == "" ? [] : ["vault"]
          content {
            name     = identity.value
            aud      = ["vault.io"]
            ttl      = "1h"
            file     = true
            filepath = "private/vault.jwt"
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
          role         = var.role == "" ? null : var.role
          stop_timeout = "1s"
          secret "db" {
            provider = var.role == "" ? "nomad" : "vault"
            path     = var.credentials
            env      = { DB_USER = "username", DB_PASSWORD = "password" }
            splay    = "0s"
          }
          secret "variable" {
            provider = "nomad"
            path     = "nomad/jobs/${var.name}"
            splay    = "0s"
            file "value" {
              field = "value"
            }
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
