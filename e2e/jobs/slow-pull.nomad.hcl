# testapp logs in to MariaDB over and over, from an image that is pulled.
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
        args         = ["dblogin"]
        role         = "slowpull"
        auth {
          username = var.user
          password = var.password
        }
        secret "db" {
          path = "database/creds/slowpull"
          env  = { DB_USER = "username", DB_PASSWORD = "password" }
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
