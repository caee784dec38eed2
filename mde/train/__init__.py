"""The training engine. It knows neither datasets nor models nor Ray: it is handed all of them."""
