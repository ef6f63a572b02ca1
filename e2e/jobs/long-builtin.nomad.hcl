# Nomad's own vault and template blocks, for comparison.
job "long-builtin" {
  group "g" {
    task "app" {
      driver = "raw_exec"
      vault {
        role = "long-ours"
      }
      env {
        DB_ADDR = "${meta.db_addr}"
      }
      template {
        data        = <<EOT
{{ with secret "database/creds/long-ours" }}DB_USER={{ .Data.username }}
DB_PASSWORD={{ .Data.password }}{{ end }}
{{ with secret "kv-long/app" }}COLOUR={{ .Data.colour }}{{ end }}
EOT
        destination = "secrets/db.env"
        env         = true
      }
      config {
        command = "testapp"
        args    = ["-every=500ms", "dblogin"]
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
