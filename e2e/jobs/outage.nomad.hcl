# Tasks that log in to MariaDB over and over, with a static secret beside.
variable "name" {
  type = string
}
variable "driver" {
  type = string
}
variable "count" {
  type = number
}
variable "mount" {
  type        = string
  description = "of the database engine"
}
variable "own_engine" {
  type        = bool
  description = "the agent's Docker engine is the test's own, and its containers have no network"
  default     = false
}
job "outage" {
  id   = var.name
  name = var.name
  group "g" {
    count = var.count
    task "app" {
      driver = var.driver
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }
      env {
        DB_ADDR = var.own_engine ? "/db.sock" : "${meta.db_addr}"
        ENGINE  = var.own_engine ? "${meta.engine}" : "" # for the sweep after a run that was killed
      }
      config {
        image        = var.driver == "docker" ? "${meta.image}" : null
        network_mode = var.driver != "docker" ? null : var.own_engine ? "none" : "host"
        volumes      = var.own_engine ? ["${meta.db_socket}:/db.sock"] : null
        command      = "testapp"
        args         = ["-every=500ms", "dblogin"]
        role         = var.name
        secret "db" {
          path    = "${var.mount}/creds/${var.name}"
          splay   = "500ms"
          stagger = "0s"
          env     = { DB_USER = "username", DB_PASSWORD = "password" }
        }
        secret "kv" {
          path        = "secret/${var.name}"
          files       = true
          change_mode = "noop"
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
