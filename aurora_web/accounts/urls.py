from __future__ import annotations

from django.contrib.auth.views import LogoutView
from django.urls import path

from aurora_web.accounts import oidc_views, views

app_name = "accounts"
urlpatterns = [
    path(
        "login/",
        views.SignIn.as_view(template_name="accounts/login.html", redirect_authenticated_user=True),
        name="login",
    ),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("oidc/login/", oidc_views.begin, name="oidc_login"),
    path("oidc/callback/", oidc_views.callback, name="oidc_callback"),
    path("invite/<str:secret>/", views.invite, name="invite"),
    path("people/", views.people, name="people"),
    path("people/invite/", views.create_invite, name="create_invite"),
    path("people/invites/<int:pk>/revoke/", views.revoke_invite, name="revoke_invite"),
    path("people/<int:pk>/role/", views.change_role, name="change_role"),
    path("people/<int:pk>/active/", views.change_active, name="change_active"),
    path("tokens/", views.tokens, name="tokens"),
    path("tokens/<int:pk>/revoke/", views.revoke_token, name="revoke_token"),
]
