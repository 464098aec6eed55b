{{/* Variables that the values stand for; they beat runnerd.toml. Those of secrets come along by envFrom. */}}
{{- define "runnerd.environment" -}}
- {name: RUNNERD_EXECUTOR_KIND, value: pods}
- {name: K8S_NAMESPACE, value: {{ include "runnerd.sandboxNamespace" . | quote }}}
- {name: K8S_IMAGE_REGISTRY, value: {{ .Values.images.registry | quote }}}
- {name: K8S_IMAGE_TAG, value: {{ include "runnerd.tag" . | quote }}}
- {name: K8S_IMAGE_PULL_POLICY, value: {{ .Values.images.pullPolicy }}}
- {name: RUNNERD_PODS_INSTANCE, value: {{ include "runnerd.instance" . | quote }}}
- {name: RUNNERD_PODS_PORT, value: {{ .Values.sandboxes.port | quote }}}
{{- with .Values.images.pullSecrets }}
- {name: K8S_IMAGE_PULL_SECRETS, value: {{ join "," . | quote }}}
{{- end }}
{{- with .Values.sandboxes.runtimeClass }}
- {name: K8S_RUNTIME_CLASS_NAME, value: {{ . | quote }}}
{{- end }}
{{- with .Values.sandboxes.priorityClass }}
- {name: RUNNERD_PODS_PRIORITY_CLASS, value: {{ . | quote }}}
{{- end }}
{{- with .Values.sandboxes.nodeSelector }}
- {name: K8S_POD_NODE_SELECTOR, value: {{ toJson . | quote }}}
{{- end }}
{{- with .Values.sandboxes.tolerations }}
- {name: K8S_POD_TOLERATIONS, value: {{ toJson . | quote }}}
{{- end }}
- {name: API_HOST, value: "0.0.0.0"}
- {name: API_PORT, value: "8000"}
{{- with .Values.nats.url }}
- {name: NATS_URL, value: {{ . | quote }}}
{{- end }}
{{- if .Values.nats.expose }}
- {name: NATS_LISTEN, value: "0.0.0.0:4222"}
{{- end }}
{{- with .Values.rabbitmq.url }}
- {name: RABBITMQ_URL, value: {{ . | quote }}}
{{- end }}
{{- if include "runnerd.shared" . }}
- {name: RUNNERD_STORE_KV_KIND, value: redis}
{{- end }}
{{- with .Values.redis.url }}
- {name: REDIS_URL, value: {{ . | quote }}}
{{- end }}
{{- with .Values.s3 }}
{{- if .endpoint }}
- {name: RUNNERD_STORE_BLOB_KIND, value: s3}
- {name: MINIO_ENDPOINT, value: {{ .endpoint | quote }}}
- {name: MINIO_SECURE, value: {{ .secure | quote }}}
{{- with .bucket }}
- {name: MINIO_BUCKET, value: {{ . | quote }}}
{{- end }}
{{- with .region }}
- {name: MINIO_REGION, value: {{ . | quote }}}
{{- end }}
{{- if .iam }}
- {name: MINIO_USE_IAM, value: "true"}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}
