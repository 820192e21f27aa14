"""The words and units that requests are made of. Each word is one token of the small policy's tokenizer."""

# sizes of units in the base unit of their quantity
UNITS: dict[str, dict[str, float]] = {
    "length": {
        "inches": 0.0254, "feet": 0.3048, "yards": 0.9144, "miles": 1609.344, "meters": 1.0, "kilometers": 1000.0,
        "centimeters": 0.01, "furlongs": 201.168, "chains": 20.1168, "fathoms": 1.8288, "leagues": 4828.03, "rods": 5.0292,
        "cubits": 0.4572, "spans": 0.2286, "paces": 0.762,
    },
    "mass": {
        "grams": 1.0, "kilograms": 1000.0, "pounds": 453.592, "ounces": 28.3495, "stones": 6350.29, "tons": 1_000_000.0,
        "grains": 0.0647989, "carats": 0.2, "drams": 1.77185, "quintals": 100_000.0,
    },
    "time": {
        "seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "days": 86400.0, "weeks": 604800.0, "fortnights": 1209600.0,
        "shifts": 28800.0,
    },
    "volume": {
        "liters": 1.0, "gallons": 3.78541, "quarts": 0.946353, "pints": 0.473176, "cups": 0.236588, "barrels": 158.987,
        "bushels": 35.2391, "pecks": 8.80977, "gills": 0.118294,
    },
    "energy": {
        "joules": 1.0, "calories": 4.184, "kilojoules": 1000.0, "therms": 105_480_400.0, "kilocalories": 4184.0,
        "megajoules": 1e6,
    },
    "pressure": {
        "pascals": 1.0, "bars": 100_000.0, "atmospheres": 101_325.0, "torrs": 133.322, "kilopascals": 1000.0,
        "millibars": 100.0,
    },
    "speed": {"knots": 0.514444, "mph": 0.44704, "kmh": 0.277778, "mps": 1.0, "fps": 0.3048},
    "angle": {"degrees": 1.0, "radians": 57.2958, "turns": 360.0, "quadrants": 90.0, "gradians": 0.9},
}  # fmt: skip

THINGS = (
    "apple bread candle drum engine feather garden hammer island jacket kettle lemon mirror needle orange pencil quilt "
    "rocket saddle tractor umbrella violin wagon yacht zebra anchor basket camera dragon eagle falcon guitar harbor iris "
    "jungle kitten lantern marble nickel onion parrot quartz rabbit salmon tiger urchin valley walnut xenon yogurt acorn "
    "badger cactus dolphin ember fossil glacier hazel indigo jasmine koala lotus magnet nutmeg oyster pebble quail raven "
    "shadow thistle velvet willow zephyr amber birch cobalt daisy elm fern ginger holly ivory jade kelp lilac maple nectar "
    "olive poppy quince reed sage tulip vanilla wheat yarrow zinc"
).split()

SERVICES = (
    "taxi courier parking printing storage catering cleaning tutoring plumbing roofing painting moving gardening welding "
    "towing laundry babysitting translation delivery rental repair coaching ferry shuttle locker studio kennel hosting "
    "notary bakery"
).split()

BILLED = "distance duration weight pages rooms guests items visits lessons nights boxes tickets meals windows lamps".split()

CHARGES = "vat tip surcharge duty levy toll premium commission markup interest royalty fee".split()

REDUCTIONS = "discount rebate voucher coupon refund allowance deduction concession".split()

AMOUNTS = (
    "price salary invoice bill rent wage loan budget deposit payment income cost bonus fare order quote purchase stake "
    "pledge subscription"
).split()

MEASURES = (
    "temperature humidity altitude voltage noise traffic pulse stress brightness acidity rainfall wind demand stock tension "
    "dust glucose radiation salinity moisture latency load occupancy turbidity"
).split()

LEVELS = "low high calm busy safe risky cold warm weak strong quiet loud dim bright dry wet good bad slow fast".split()

SHAPES = "field wall roof floor panel sheet canvas lawn carpet banner window pool terrace deck fence".split()

MARKS = "comma dash slash colon dot star plus hash".split()

MARK_SIGNS = {"comma": ",", "dash": "-", "slash": "/", "colon": ":", "dot": ".", "star": "*", "plus": "+", "hash": "#"}

COLLECTIONS = (
    "scores prices readings ages grades weights sizes times votes sales orders points rates counts levels marks"
).split()

PERSONS = (
    "Ada Ben Cleo Dan Eva Finn Gus Hana Ivo Jill Kai Lena Milo Nora Omar Pia Quin Rosa Sam Tess Uma Vic Wes Yara Zoe"
).split()
