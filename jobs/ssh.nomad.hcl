# An SSH certificate: Vault signs the public half of a key that the task has from elsewhere. (With path
# ssh/issue/deploy and no public_key it makes the key, too: the field private_key.) The certificate's end
# is in itself: it is signed anew at about two thirds of its life. Those who trust the CA read ssh/config/ca (no
# params, the field public_key), and get the key of the one that takes its place.
job "ssh" {
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
        role    = "ssh"

        secret "ssh" {
          path        = "ssh/sign/deploy"
          change_mode = "noop"
          params = {
            public_key       = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFc4MG1ACytWsG5/DziDlmwMmGsTvBCgPsT7pGEYvQUg deploy@example.com"
            valid_principals = "deploy"
          }

          file "ssh/id_ed25519-cert.pub" {
            field = "signed_key"
          }
        }
      }
    }
  }
}
