package pull

import (
	"errors"
	"fmt"
	"strings"

	"github.com/distribution/reference"
)

// CheckServer refuses an image of another registry than the one that a job's credentials are for. Both are taken as
// Docker takes them: an image without a registry is Docker Hub's, which has several names.
func CheckServer(image, server string) error {
	want, err := registryOf(server)
	if err != nil {
		return fmt.Errorf("server_address %q: %w", server, err)
	}
	named, err := reference.ParseNormalizedNamed(Name(image))
	if err != nil {
		return fmt.Errorf("server_address %q is given, and the image %q is not the name of one in a registry: %w", server, image, err)
	}
	if have := withoutPort(reference.Domain(named)); !strings.EqualFold(have, want) {
		return fmt.Errorf("server_address %q is another registry than the image's, which is %s; the credentials are not sent there: correct one of them", server, reference.Domain(named))
	}
	return nil
}

// hub is how Docker calls the registry of images that name none.
const hub = "docker.io"

// registryOf is the registry that a server's address or URL means, as in an image's name.
func registryOf(server string) (string, error) {
	host := server
	for _, scheme := range []string{"https://", "http://"} {
		host = strings.TrimPrefix(host, scheme)
	}
	host, _, _ = strings.Cut(host, "/")
	named, err := reference.ParseNormalizedNamed(host + "/x/x")
	if err != nil {
		return "", errors.New(`it is not a registry's address; give one such as "registry.example.com:5000"`)
	}
	domain := reference.Domain(named)
	if domain == hub && !strings.HasSuffix(host, hub) { // a word that Docker takes for a user of Docker Hub's
		return "", errors.New(`to Docker it is a user of Docker Hub's, not a registry; give an address with a dot or a port, such as "registry.example.com:5000"`)
	}
	return withoutPort(domain), nil
}

// withoutPort is a registry without the port that is meant where there is none.
func withoutPort(registry string) string { return strings.TrimSuffix(registry, ":443") }

// Name is an image's name as the wrapped driver goes by it.
func Name(image string) string { return strings.TrimPrefix(image, "https://") }

// Always reports whether an image is asked for at its registry even if the node has one of this name: its tag is the one
// that stands for what is newest.
func Always(image string) bool {
	named, err := reference.ParseNormalizedNamed(Name(image))
	if err != nil {
		return false
	}
	tagged, ok := reference.TagNameOnly(named).(reference.Tagged)
	if _, digested := named.(reference.Digested); digested {
		return false
	}
	return ok && tagged.Tag() == "latest"
}
