"""Networks for images: float N×C×H×W to logits, N×`num_classes`. All have these arguments and their own:

| argument | meaning |
| --- | --- |
| `num_classes`, `in_channels`, `image_size` | outputs; channels of the images; pixels a side |
| `activation` | a key of `layers.ACTIVATIONS` |
| `norm` | `batch`, `group`, `layer` or `none` |
| `dropout` | probability, before the head |
| `initialization` | a function of `project.networks.initialization` |
"""
