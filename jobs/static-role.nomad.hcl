# The password of a database user that is there already, which Vault changes now and then: the user's name
# stays. The old password ends with the change, so the new one is looked for just after it.
job "static-role" {
  group "app" {
    constraint {
      attribute = "${attr.driver.docker.secrets}"
      operator  = "is_set"
    }

    task "app" {
      driver = "docker"

      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }

      config {
        image   = "secrets-demo/busybox:1"
        command = "sh"
        args    = ["-c", "trap exit INT TERM; while true; do sleep 1; done"]
        role    = "static-role"

        secret "reports" {
          path  = "database/static-creds/reports"
          env   = { PGUSER = "username", PGPASSWORD = "password" }
          splay = "0s" # the sooner, the better: until then the task has the old password
        }
      }
    }
  }
}
