# A secret in the cubbyhole of the task's own token. Only who has that token can write it: here the task,
# by expose_token, to find something again when it is restarted. At first it is empty, so it must not be
# required. What is there at a start of the task is followed when it changes, and gone with the token.
# With an identity block nobody but the driver has the token: its cubbyhole stays empty.
job "cubbyhole" {
  group "app" {
    constraint {
      attribute = "${attr.driver.docker.secrets}"
      operator  = "is_set"
    }

    task "app" {
      driver = "docker"

      vault {
        role = "cubbyhole"
      }

      config {
        image   = "secrets-demo/busybox:1"
        command = "sh"
        args    = ["-c", "trap exit INT TERM; while true; do sleep 1; done"]

        expose_token = true

        secret "own" {
          path     = "cubbyhole/app"
          env      = { NOTE = "note" }
          required = false
        }
      }
    }
  }
}
