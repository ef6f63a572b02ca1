# Static roles of two databases, and a lease of one.
job "engines" {
  group "g" {
    task "maria" {
      driver = "raw_exec"
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }
      config {
        command = "/bin/sh"
        args    = ["-c", "echo start; exec sleep 1000"]
        role    = "engines"
        secret "rot" {
          path  = "engines-maria/static-creds/rot"
          env   = { DB_USER = "username", DB_PASSWORD = "password" }
          splay = "0s"
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
    task "pg" {
      driver = "raw_exec"
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }
      config {
        command = "/bin/sh"
        args    = ["-c", "echo start; exec sleep 1000"]
        role    = "engines"
        secret "rot" {
          path  = "engines-pg/static-creds/rot"
          env   = { DB_USER = "username", DB_PASSWORD = "password" }
          splay = "0s"
        }
        secret "dynamic" {
          path = "engines-pg/creds/app"
          env  = { APP_USER = "username", APP_PASSWORD = "password" }
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
