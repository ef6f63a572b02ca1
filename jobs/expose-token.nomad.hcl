# A task that talks to Vault itself. Only with expose_token does it keep VAULT_TOKEN and
# /secrets/vault_token once it has secrets from the driver.
job "expose-token" {
  group "app" {
    constraint {
      attribute = "${attr.driver.docker.secrets}"
      operator  = "is_set"
    }

    task "app" {
      driver = "docker"

      vault {
        role = "expose-token"
      }

      config {
        image   = "secrets-demo/busybox:1"
        command = "sh"
        args    = ["-c", "trap exit INT TERM; while true; do sleep 1; done"]

        expose_token = true

        secret "app" {
          path       = "secret/app-1"
          env_prefix = "APP_"
        }
      }
    }
  }
}
