package awsfake

import (
	"context"
	"crypto/rand"
	"encoding/xml"
	"errors"
	"net/http"
	"strings"
	"time"
)

// members is how AWS writes a list.
type members[T any] struct {
	Member []T `xml:"member"`
}

// noResult is the answer of actions that have nothing to say.
type noResult struct{}

// write sends an answer: <ActionResponse><ActionResult>…, or <ErrorResponse><Error>…
func write(w http.ResponseWriter, namespace, action string, result any, failed *failure) {
	w.Header().Set("Content-Type", "text/xml")
	requestID := rand.Text()
	e := xml.NewEncoder(w)
	if failed != nil {
		w.WriteHeader(failed.status)
		_ = e.Encode(errorResponse{Namespace: namespace, Type: "Sender", Code: failed.code, Message: failed.message, RequestID: requestID})
		return
	}
	start := xml.StartElement{Name: xml.Name{Space: namespace, Local: action + "Response"}}
	_ = e.EncodeToken(start)
	if result != (noResult{}) {
		_ = e.EncodeElement(result, xml.StartElement{Name: xml.Name{Local: action + "Result"}})
	}
	_ = e.EncodeElement(struct{ RequestId string }{requestID}, xml.StartElement{Name: xml.Name{Local: "ResponseMetadata"}})
	_ = e.EncodeToken(start.End())
	_ = e.Flush()
}

type errorResponse struct {
	XMLName   xml.Name `xml:"ErrorResponse"`
	Namespace string   `xml:"xmlns,attr"`
	Type      string   `xml:"Error>Type"`
	Code      string   `xml:"Error>Code"`
	Message   string   `xml:"Error>Message"`
	RequestID string   `xml:"RequestId"`
}

// date is how AWS writes a time in XML.
func date(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// Identify asks the server, as anybody does with `aws sts get-caller-identity`, whose a key is. The error
// has AWS's code for it.
func (s *Server) Identify(ctx context.Context, key Key) (arn string, err error) {
	const body = "Action=GetCallerIdentity&Version=2011-06-15"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	now := time.Now().UTC()
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("X-Amz-Date", now.Format("20060102T150405Z"))
	headers := []string{"content-type", "host", "x-amz-date"}
	if key.Token != "" {
		req.Header.Set("X-Amz-Security-Token", key.Token)
		headers = append(headers, "x-amz-security-token")
	}
	scope := now.Format("20060102") + "/us-east-1/sts/aws4_request"
	req.Header.Set("Authorization", algorithm+" Credential="+key.ID+"/"+scope+", SignedHeaders="+strings.Join(headers, ";")+
		", Signature="+signature(req, []byte(body), scope, headers, key.Secret))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var failed errorResponse
		if err := xml.NewDecoder(resp.Body).Decode(&failed); err != nil {
			return "", err
		}
		return "", errors.New(failed.Code)
	}
	var answer struct {
		Arn string `xml:"GetCallerIdentityResult>Arn"`
	}
	err = xml.NewDecoder(resp.Body).Decode(&answer)
	return answer.Arn, err
}
