"""Figures in one grammar, Vega-Lite: drawn from tables, rendered without a network."""
