package awsfake

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

// Signature Version 4, for requests without a query to the path "/", as all of the Query protocol are.

const algorithm = "AWS4-HMAC-SHA256"

// authorization is what the header of that name says.
type authorization struct {
	keyID     string
	scope     string   // date/region/service/aws4_request
	headers   []string // that are signed, sorted
	signature string
}

var authorizationForm = regexp.MustCompile(`^` + algorithm + ` Credential=([A-Z0-9]+)/([^,]+), *SignedHeaders=([^,]+), *Signature=([0-9a-f]{64})$`)

func parseAuthorization(header string) (authorization, bool) {
	m := authorizationForm.FindStringSubmatch(header)
	if m == nil {
		return authorization{}, false
	}
	return authorization{keyID: m[1], scope: m[2], headers: strings.Split(m[3], ";"), signature: m[4]}, true
}

// signature is what the owner of a secret signs a request with.
func signature(r *http.Request, body []byte, scope string, headers []string, secret string) string {
	lines := []string{r.Method, "/", ""}
	for _, name := range headers {
		lines = append(lines, name+":"+headerOf(r, name))
	}
	lines = append(lines, "", strings.Join(headers, ";"), hash(body))
	text := strings.Join([]string{algorithm, r.Header.Get("X-Amz-Date"), scope, hash([]byte(strings.Join(lines, "\n")))}, "\n")

	key := []byte("AWS4" + secret)
	for part := range strings.SplitSeq(scope, "/") {
		key = mac(key, part)
	}
	return hex.EncodeToString(mac(key, text))
}

func headerOf(r *http.Request, name string) string {
	switch name {
	case "host":
		return r.Host
	case "content-length":
		return strconv.FormatInt(r.ContentLength, 10)
	}
	return strings.TrimSpace(r.Header.Get(name))
}

func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func mac(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}
