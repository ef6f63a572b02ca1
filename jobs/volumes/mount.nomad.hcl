# One volume of the driver among other mounts, with options: who may read, and for how long its last values are served
# while the secrets server is away.
job "volume-mount" {
  group "app" {
    task "app" {
      driver = "docker"

      config {
        image   = "secrets-demo/busybox:1"
        command = "sh"
        args    = ["-c", "echo user: $(cat /run/app-1/username); trap exit INT TERM; while true; do sleep 1; done"]

        mount {
          type   = "volume"
          target = "/run/app-1"
          source = "app-1-of-root"

          volume_options {
            driver_config {
              name = "secrets"
              options {
                path  = "secret/app-1"
                uid   = "0"
                stale = "30m"
              }
            }
          }
        }
      }
    }
  }
}
