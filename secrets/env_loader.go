package secrets

import "strings"

// loaderEnv are variables that change what code a program loads or runs, whom it trusts, or where it sends what it
// has. A secret's name and its fields' make a variable's name, so whoever may write a key below a pattern of a
// policy could set them in every task of that policy: discovery never does. docs/policies.md lists them. A job that
// wants one declares it.
var loaderEnv = []string{
	// The dynamic linker and the C library.
	"GCONV_PATH", "GETCONF_DIR", "GLIBC_TUNABLES", "HOSTALIASES", "LOCALDOMAIN", "LOCPATH", "NLSPATH", "RES_OPTIONS", "RESOLV_HOST_CONF", "TMPDIR",
	// Shells.
	"BASH_ENV", "BASHOPTS", "CDPATH", "ENV", "IFS", "PATH", "PROMPT_COMMAND", "PS4", "SHELLOPTS", "ZDOTDIR",
	// Languages.
	"CATALINA_OPTS", "CLASSPATH", "ELIXIR_ERL_OPTIONS", "ERL_AFLAGS", "ERL_FLAGS", "ERL_ZFLAGS", "GRADLE_OPTS", "JAVA_OPTS", "JAVA_TOOL_OPTIONS",
	"JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "MAVEN_OPTS", "NODE_EXTRA_CA_CERTS", "NODE_OPTIONS", "NODE_PATH", "NODE_REPL_EXTERNAL_MODULE",
	"NODE_TLS_REJECT_UNAUTHORIZED", "PERL5DB", "PERL5LIB", "PERL5OPT", "PERLLIB", "PHPRC", "PHP_INI_SCAN_DIR", "RUBYLIB", "RUBYOPT", "R_ENVIRON_USER",
	"R_PROFILE_USER", "BUNDLE_GEMFILE", "GEM_HOME", "GEM_PATH",
	// Programs that programs start, and configuration that names such.
	"AWS_CONFIG_FILE", "DOCKER_CONFIG", "EDITOR", "GIT_ASKPASS", "GIT_EDITOR", "GIT_EXEC_PATH", "GIT_EXTERNAL_DIFF", "GIT_PAGER", "GIT_PROXY_COMMAND",
	"GIT_SSH", "GIT_SSH_COMMAND", "GIT_TEMPLATE_DIR", "KUBECONFIG", "LESSCLOSE", "LESSOPEN", "PAGER", "SSH_ASKPASS", "VISUAL",
	// Trust, and where what is secret goes.
	"ALL_PROXY", "CURL_CA_BUNDLE", "CURL_HOME", "FTP_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "OPENSSL_CONF", "OPENSSL_ENGINES", "OPENSSL_MODULES",
	"REQUESTS_CA_BUNDLE", "SSLKEYLOGFILE", "SSL_CERT_DIR", "SSL_CERT_FILE",
}

// loaderEnvPrefixes are the beginnings of such variables, of families that grow.
var loaderEnvPrefixes = []string{
	"BASH_FUNC_", "COMPLUS_", "CORECLR_", "COR_", "DOTNET_", "DYLD_", "GIT_CONFIG", "LD_", "LUA_", "MALLOC_", "NOMAD_", "NPM_CONFIG_", "PYTHON", "VAULT_",
}

var loaderEnvSet = func() map[string]bool {
	set := map[string]bool{}
	for _, name := range loaderEnv {
		set[name] = true
	}
	return set
}()

// isLoaderEnv reports whether discovery never sets a variable.
func isLoaderEnv(name string) bool {
	if loaderEnvSet[name] {
		return true
	}
	for _, prefix := range loaderEnvPrefixes {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}
