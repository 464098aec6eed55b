{{/* Ports of the servers that the values name: as their addresses say, else the usual ones. Several NATS or Redis addresses share a line. */}}
{{- define "runnerd.serverPorts" -}}
{{- $ports := list -}}
{{- with .Values.nats.url }}{{ $ports = concat $ports (regexFindAll ":[0-9]+" . -1 | default (list ":4222")) }}{{ end -}}
{{- with .Values.rabbitmq.url }}{{ $ports = concat $ports (regexFindAll ":[0-9]+(/|,|$)" . -1 | default (ternary (list ":5671") (list ":5672") (hasPrefix "amqps" .))) }}{{ end -}}
{{- with .Values.redis.url }}{{ $ports = concat $ports (regexFindAll ":[0-9]+(/|,|$)" . -1 | default (list ":6379")) }}{{ end -}}
{{- if .Values.redis.external }}{{ $ports = append $ports ":6379" }}{{ end -}}
{{- with .Values.s3.endpoint }}{{ $ports = concat $ports (regexFindAll ":[0-9]+$" . -1 | default (list ":80")) }}{{ end -}}
{{- range $ports | uniq }}
- {protocol: TCP, port: {{ regexFind "[0-9]+" . }}}
{{- end }}
{{- end -}}
