{{/*
What the pods of both services and that of `helm test` share. Each template takes a dict: `root` is the
chart's context, `name` is `ponger` or `pinger`.
*/}}

{{- define "ping-pong.pod" -}}
serviceAccountName: {{ .name }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  # The key is readable by this group only (defaultMode 0440).
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
volumes:
  - name: config
    configMap:
      name: {{ .name }}
  # A separate object: write access to the certificate's Secret must not allow replacing the roots that it is
  # verified against.
  - name: roots
    configMap:
      name: {{ .root.Values.trustBundle }}
  - name: tls
    secret:
      secretName: {{ .name }}-tls
      defaultMode: 0440
{{- end }}

{{- define "ping-pong.container" -}}
{{- $values := get .root.Values .name -}}
name: {{ .name }}
image: {{ include "ping-pong.image" . }}
imagePullPolicy: {{ $values.image.pullPolicy }}
env:
  - name: NAMESPACE
    valueFrom:
      fieldRef:
        fieldPath: metadata.namespace
  # The SPIFFE ID of the peer, unless the configuration sets it.
  {{- if and (eq .name "ponger") (not (dig "service" "allowedClients" "" $values.config)) }}
  - name: PONGER__SERVICE__ALLOWED_CLIENTS
    value: spiffe://cluster.local/ns/$(NAMESPACE)/sa/pinger
  {{- else if and (eq .name "pinger") (not (dig "ponger" "serverId" "" $values.config)) }}
  - name: PINGER__PONGER__SERVER_ID
    value: spiffe://cluster.local/ns/$(NAMESPACE)/sa/ponger
  {{- end }}
  {{- with $values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
resources:
  {{- toYaml $values.resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
volumeMounts:
  - name: config
    mountPath: /etc/ping-pong/config
    readOnly: true
  - name: roots
    mountPath: /etc/ping-pong/roots
    readOnly: true
  - name: tls
    mountPath: /etc/ping-pong/tls
    readOnly: true
{{- end }}

{{/* What the container of a service has, and that of `helm test` has not. */}}
{{- define "ping-pong.serviceContainer" -}}
{{ include "ping-pong.container" . }}
args: [--config, /etc/ping-pong/config/config.yaml]
# kubelet cannot present a client certificate, so probes use the plain admin port.
startupProbe:
  httpGet:
    path: /readyz
    port: admin
  periodSeconds: 1
  failureThreshold: 30
readinessProbe:
  httpGet:
    path: /readyz
    port: admin
  periodSeconds: 2
  failureThreshold: 2
livenessProbe:
  httpGet:
    path: /livez
    port: admin
  periodSeconds: 10
  timeoutSeconds: 3
{{- end }}
