# A Nomad Variable as env and as a file: no Vault, and nothing in the agent's configuration. The identity is all the
# set-up. A job may read nomad/jobs, and nomad/jobs/<its id> and below; for more, bind an ACL policy of Nomad's to it.
job "nomad-variables" {
  group "app" {
    constraint {
      attribute = "${attr.driver.docker.secrets.nomad}"
      operator  = "is_set"
    }

    task "app" {
      driver = "docker"

      identity {
        file     = true
        filepath = "private/nomad.jwt"
      }

      config {
        image   = "secrets-demo/busybox:1"
        command = "sh"
        args    = ["-c", "trap exit INT TERM; while true; do sleep 1; done"]

        secret "app" {
          provider = "nomad"
          path     = "nomad/jobs/nomad-variables"
          env      = { APP_USER = "username" }

          file "password" {
            field = "password"
          }
        }
      }
    }
  }
}
