"""The prototypes of a trained model as one page: what each of them stands for."""
