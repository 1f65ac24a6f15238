// The peer in Go: net/http, which answers GET /ping with pong over mutual TLS.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"log/slog"
	"net/http"
	"os"
	"time"
)

func main() {
	pem, err := os.ReadFile(os.Getenv("ROOTS"))
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)

	ping := func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "pong") }
	switch os.Getenv("LOG") {
	case "text":
		ping = logged(slog.New(slog.NewTextHandler(os.Stdout, nil)), ping)
	case "json":
		ping = logged(slog.New(slog.NewJSONHandler(os.Stdout, nil)), ping)
	}
	http.HandleFunc("GET /ping", ping)
	server := http.Server{
		Addr: "127.0.0.1:" + os.Getenv("PORT"),
		TLSConfig: &tls.Config{
			ClientAuth:             tls.RequireAndVerifyClientCert,
			ClientCAs:              roots,
			MinVersion:             tls.VersionTLS13,
			SessionTicketsDisabled: true,
			NextProtos:             []string{"http/1.1"},
		},
	}
	log.Fatal(server.ListenAndServeTLS(os.Getenv("TLS_CERTIFICATE"), os.Getenv("TLS_PRIVATE_KEY")))
}

func logged(logger *slog.Logger, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		next(w, r)
		logger.Info("Received GET /ping", "status", http.StatusOK,
			"peer", r.TLS.PeerCertificates[0].URIs[0].String(), "duration_us", time.Since(start).Microseconds())
	}
}
