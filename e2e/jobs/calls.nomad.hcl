# A task of each driver that runs as another user.
variable "image" {
  type = string
}
job "calls" {
  group "g" {
    task "docker" {
      driver = "docker"
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }
      config {
        image   = var.image
        command = "testapp"
        args    = ["sighup", "/secrets/app/colour"]
        labels {
          team = "a"
        }
        role = "calls"
        secret "app" {
          path  = "secret/calls"
          env   = { COLOUR = "colour" }
          files = true
        }
      }
    }
    task "raw_exec" {
      driver = "raw_exec"
      user   = "nobody"
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }
      config {
        command = "testapp"
        args    = ["sighup", "secrets/app/colour"]
        role    = "calls"
        secret "app" {
          path  = "secret/calls"
          env   = { COLOUR = "colour" }
          files = true
        }
      }
    }
  }
}
