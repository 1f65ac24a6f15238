{{/*
Each template below takes a dict: `root` is the chart's context, `name` is `ponger` or `pinger`.
*/}}

{{- define "ping-pong.selectorLabels" -}}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/name: {{ .name }}
{{- end }}

{{- define "ping-pong.labels" -}}
app.kubernetes.io/component: {{ get (dict "ponger" "server" "pinger" "client") .name }}
{{ include "ping-pong.selectorLabels" . }}
app.kubernetes.io/part-of: ping-pong
{{- end }}

{{- define "ping-pong.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "ping-pong.labels" . | nindent 2 }}
{{- end }}

{{- define "ping-pong.image" -}}
{{- $image := (get .root.Values .name).image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "ping-pong.config" -}}
{{ toYaml (get .root.Values .name).config }}
{{- end }}
