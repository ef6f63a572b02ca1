// Package config reads the issuer's configuration, in HCL. Every error has the file, the line and the column
// of what is wrong, and says what would be right.
//
//	account {
//	  directory             = "https://acme-v02.api.letsencrypt.org/directory"
//	  email                 = "certificates@example.com"
//	  accept_terms          = true
//	}
//	storage {
//	  path = "secret/acme"
//	}
//	challenge "dns-01" "zone" {
//	  provider = "cloudflare"
//	}
//	certificate "web" {
//	  domains   = ["example.com", "*.example.com"]
//	  challenge = "zone"
//	  path      = "secret/tls/web"
//	}
//
// The functions env("NAME") and file("PATH") keep secret values out of it.
package config
