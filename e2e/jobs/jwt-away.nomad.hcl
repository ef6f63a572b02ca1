# The identity's JWT lives for 15 s, and Nomad renews it.
job "jwt-away" {
  group "g" {
    task "app" {
      driver = "raw_exec"
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "15s"
        file     = true
        filepath = "private/vault.jwt"
      }
      env {
        DB_ADDR = "${meta.db_addr}"
      }
      config {
        command = "testapp"
        args    = ["-every=200ms", "dblogin"]
        role    = "jwt-away"
        secret "db" {
          path  = "database/creds/jwt-away"
          env   = { DB_USER = "username", DB_PASSWORD = "password" }
          splay = "0s"
        }
      }
    }
  }
}
