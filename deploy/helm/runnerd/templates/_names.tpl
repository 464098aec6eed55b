{{/* The release's name stands for the chart's too where it holds it. */}}
{{- define "runnerd.name" -}}
{{- $name := .Release.Name -}}
{{- if not (contains "runnerd" $name) -}}{{- $name = printf "%s-runnerd" $name -}}{{- end -}}
{{- $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "runnerd.selector" -}}
app.kubernetes.io/name: runnerd
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: daemon
{{- end -}}

{{- define "runnerd.labels" -}}
app.kubernetes.io/name: runnerd
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* What sandboxes of this release are called and labelled, by the daemon: pods.instance. */}}
{{- define "runnerd.instance" -}}
{{- include "runnerd.name" . | trunc 32 | trimSuffix "-" -}}
{{- end -}}

{{- define "runnerd.sandboxSelector" -}}
app.kubernetes.io/name: runnerd-sandbox
app.kubernetes.io/instance: {{ include "runnerd.instance" . }}
{{- end -}}

{{- define "runnerd.sandboxNamespace" -}}
{{- .Values.sandboxes.namespace | default .Release.Namespace -}}
{{- end -}}

{{- define "runnerd.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "runnerd.name" .) -}}
{{- end -}}

{{- define "runnerd.tag" -}}
{{- .Values.images.tag | default .Chart.AppVersion -}}
{{- end -}}

{{/* Whether daemons share their records. */}}
{{- define "runnerd.shared" -}}
{{- if or .Values.redis.url .Values.redis.external -}}yes{{- end -}}
{{- end -}}

{{/* What can't work is refused here, in words. */}}
{{- define "runnerd.check" -}}
{{- $many := or .Values.autoscaling.enabled (gt (int .Values.replicas) 1) -}}
{{- if and $many (not (include "runnerd.shared" .)) -}}
{{- fail "more than one daemon needs records that they share: set redis.url, or redis.external with REDIS_URL in a secret" -}}
{{- end -}}
{{- if and $many (not .Values.secrets) -}}
{{- fail "more than one daemon needs an API key that they share: name a secret that holds API_KEY in `secrets`" -}}
{{- end -}}
{{- if and $many .Values.persistence.enabled -}}
{{- fail "persistence is for one daemon: more of them keep what they share in redis and s3" -}}
{{- end -}}
{{- if and .Values.nats.expose .Values.nats.url -}}
{{- fail "nats.expose is about the embedded server, which is not started where nats.url names another" -}}
{{- end -}}
{{- if and .Values.nats.expose (not .Values.secrets) -}}
{{- fail "nats.expose needs a secret with NATS_TOKEN, or NATS_USER and NATS_PASSWORD: name it in `secrets`" -}}
{{- end -}}
{{- if and .Values.sandboxes.createNamespace (eq (include "runnerd.sandboxNamespace" .) .Release.Namespace) -}}
{{- fail "sandboxes.createNamespace needs sandboxes.namespace, other than the release's" -}}
{{- end -}}
{{- end -}}
