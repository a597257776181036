# Slicer writes the extension's own package configuration here.
