# The image is pulled anew at each start, by a tag that moves.
variable "image" {
  type = string
}
variable "user" {
  type = string
}
variable "password" {
  type = string
}
job "kept-image" {
  group "g" {
    task "web" {
      driver = "docker"
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }
      config {
        image      = var.image
        force_pull = true
        role       = "kept-image"
        auth {
          username = var.user
          password = var.password
        }
        secret "app" {
          path  = "secret/kept-image"
          env   = { COLOUR = "colour" }
          splay = "0s"
        }
      }
    }
  }
}
