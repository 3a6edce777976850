from django.apps import AppConfig


class RetentionConfig(AppConfig):
    name = "aurora_web.retention"
    label = "retention"
