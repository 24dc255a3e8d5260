from .dashboard import build_dashboard, save_dashboard, write_dashboard

__all__ = ["build_dashboard", "save_dashboard", "write_dashboard"]
