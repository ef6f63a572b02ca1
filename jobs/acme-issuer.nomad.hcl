# Certificates from Let's Encrypt, or another ACME authority, kept in Vault: one issuer for the cluster (docs/acme.md).
# Its DNS provider's credential is a secret of its own, that the driver gives it as a variable. It reads and writes
# KV with a second identity, which Nomad writes where the program can read it.
variable "program" {
  default = "/usr/local/bin/nomad-acme-issuer"
}

variable "user" {
  default = "nobody"
}

variable "vault_addr" {
  default = "https://vault.service.consul:8200"
}

variable "config" {
  default = <<-HCL
    account {
      directory    = "https://acme-v02.api.letsencrypt.org/directory"
      email        = "certificates@example.com"
      accept_terms = true
    }

    storage {
      path = "secret/acme"
    }

    vault {
      jwt {
        role = "acme-issuer"
        file = "$${env("NOMAD_SECRETS_DIR")}/nomad_acme.jwt"
      }
    }

    http {
      address = ":$${env("NOMAD_PORT_http")}"
    }

    challenge "dns-01" "zone" {
      provider = "cloudflare"
    }

    certificate "web" {
      domains   = ["example.com", "*.example.com"]
      challenge = "zone"
      path      = "secret/tls/acme-web"
    }
  HCL
}

job "acme-issuer" {
  group "issuer" {
    constraint {
      attribute = "${attr.driver.raw_exec.secrets}"
      operator  = "is_set"
    }

    network {
      port "http" {}
    }

    service {
      provider = "nomad"
      name     = "acme-issuer"
      port     = "http" # /metrics, too

      check {
        type     = "http"
        path     = "/health"
        interval = "10s"
        timeout  = "5s"
      }
    }

    task "issuer" {
      driver       = "raw_exec"
      user         = var.user
      kill_timeout = "20s" # a record in the zone is removed, and a lock given back

      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }

      identity {
        name = "acme"
        aud  = ["vault.io"]
        ttl  = "1h"
        file = true
      }

      env {
        VAULT_ADDR = var.vault_addr
      }

      template {
        data        = var.config
        destination = "local/acme.hcl"
      }

      config {
        command = var.program
        args    = ["-config", "${NOMAD_TASK_DIR}/acme.hcl"]
        role    = "acme-issuer"

        secret "dns" {
          path = "secret/acme-dns"
          env  = { CLOUDFLARE_DNS_API_TOKEN = "token" }
        }
      }

      resources {
        memory = 128
      }
    }
  }
}
