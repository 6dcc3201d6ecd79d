"""Networks for images: float N×C×H×W to logits, N×`num_classes`. All have these arguments and their own:

| argument | meaning |
| --- | --- |
| `num_classes`, `in_channels` | outputs; channels of the images |
| `image_size` | pixels a side, where a layer is made for it |
| `activation`, `norm` | a key of `layers.ACTIVATIONS`; `batch`, `group`, `layer` or `none` |
| `dropout` | probability, before the head |
| `initialization` | a function of `project.networks.initialization` |
"""
