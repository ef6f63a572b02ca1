# testapp logs in to MariaDB over and over, from an image that is pulled, with files that are bound into its container by name.
variable "name" {
  type = string
}
variable "image" {
  type = string
}
variable "user" {
  type = string
}
variable "password" {
  type = string
}
job "slow-pull" {
  id   = var.name
  name = var.name
  group "g" {
    task "app" {
      driver = "docker"
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }
      env {
        DB_ADDR = "${meta.db_addr}"
      }
      config {
        image        = var.image
        force_pull   = true
        network_mode = "host"
        command      = "testapp"
        args         = ["dblogin", "-files", "/etc/db"]
        volumes      = ["secrets/db:/etc/db"]
        role         = var.name
        auth {
          username = var.user
          password = var.password
        }
        secret "db" {
          path  = "database/creds/${var.name}"
          files = true
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
