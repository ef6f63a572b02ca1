# Nomad's own vault and template blocks alone.
job "vault-trust" {
  group "g" {
    task "web" {
      driver = "raw_exec"
      vault {
        role = "trust"
      }
      template {
        data        = "{{ with secret \"secret/trust\" }}{{ .Data.data.colour }}{{ end }}"
        destination = "local/colour"
      }
      config {
        command = "testapp"
        args    = ["sighup", "local/colour"]
      }
    }
  }
}
